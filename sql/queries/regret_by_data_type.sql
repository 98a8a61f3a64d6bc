-- Where does the choice that was executed cost most against the best one?
SELECT data_type, transfers, mean_regret_ms, regret_percent, p95_regret_ms
FROM regret_by_data_type
ORDER BY regret_percent DESC;
