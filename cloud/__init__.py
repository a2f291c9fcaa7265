"""The cloud wing: plans rollouts, keeps the records, serves the images and speaks to operators."""
