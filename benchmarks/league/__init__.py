"""What does each objective learn from the same walk in the same time?"""
