"""Who may do what: roles, who asks, and the rule of every route; pure."""
