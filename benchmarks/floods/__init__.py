"""Do rigs and learners keep their memory, their pairs and their honest peers while somebody floods them?"""
