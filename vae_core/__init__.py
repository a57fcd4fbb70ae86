"""The codec: Arrow arrays in, integers and bytes out. No I/O, no Prefect; torch only where something is trained."""
