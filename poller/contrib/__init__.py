"""What stands in an application of a certain framework. It imports `poller.application` and nothing else of the house."""
