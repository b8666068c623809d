"""Learning from bags: packed bags of any size, aggregators, and the tasks over them."""
