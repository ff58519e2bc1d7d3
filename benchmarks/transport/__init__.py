"""How fast do pairs travel, compared with other ways to send them?"""
