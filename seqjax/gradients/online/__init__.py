"""Online estimators, which compute the influence of the params on the carry forward in time."""
