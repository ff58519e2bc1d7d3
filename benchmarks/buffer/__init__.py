"""What does a key cost in a prioritised buffer?"""
