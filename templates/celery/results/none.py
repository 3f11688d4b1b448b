# Nobody asks for results; not storing them saves a round trip for each task.
task_ignore_result = True
