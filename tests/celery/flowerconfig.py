from resilient_tasks.flower import format_task, tasks_columns

__all__ = ["format_task", "tasks_columns"]
