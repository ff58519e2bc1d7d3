"""What does a watched live page cost training?"""
