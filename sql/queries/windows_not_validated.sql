-- Which windows are held back, and why?
SELECT day, region, state, rows_loaded, failure, ingestion_run_id, loaded_at
FROM ingestion_windows
WHERE state <> 'validated'
ORDER BY day, region;
