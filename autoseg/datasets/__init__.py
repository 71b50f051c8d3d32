"""From a user's folders to cases: layouts, names, and the checks at the border."""
