"""Training loops behind MLP.fit and the estimators."""
