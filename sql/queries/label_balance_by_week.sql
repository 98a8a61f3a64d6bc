-- How often was each choice the best, week by week? A jump tells that the fleet's traffic has changed.
SELECT week, label, transfers, percent
FROM label_balance_by_week
ORDER BY week, label;
