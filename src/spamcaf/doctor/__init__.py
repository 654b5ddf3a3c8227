"""Preflight: does everything that a run needs exist and fit, before the heavy work starts?"""
