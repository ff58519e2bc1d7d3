"""Which embedded store should hold the rig's pairs?"""
