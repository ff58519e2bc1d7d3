"""How much slower is training while somebody watches the live page?"""
