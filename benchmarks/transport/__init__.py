"""How fast are pairs sent, compared with other ways to send them?"""
