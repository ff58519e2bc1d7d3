"""What is each choice of the recipe worth?"""
