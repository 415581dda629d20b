"""What stands in an application of a certain framework. It imports `poller.application`, and no more of the house."""
