"""Why a score is what it is: the contributions of features, computed by the library that trained the trees."""
