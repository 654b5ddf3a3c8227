"""Published methods to compare with, written anew from their descriptions."""
