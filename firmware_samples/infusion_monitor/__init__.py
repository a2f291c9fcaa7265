"""An infusion monitor that takes updates only in its window."""
