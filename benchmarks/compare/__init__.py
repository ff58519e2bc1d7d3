"""Which objective and which memory policy suits a recording of one's own?"""
