"""The only room that knows Prefect."""
