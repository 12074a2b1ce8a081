"""Money: holds, the index that finds them, the account that decides, and how it reaches children."""
