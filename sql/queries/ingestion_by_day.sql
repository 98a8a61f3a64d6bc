-- Is every day loaded, reconciled and validated?
SELECT
    day, regions, regions_validated, regions_failed, rows_read, rows_loaded, rows_quarantined, rows_duplicate,
    quarantined_percent
FROM ingestion_by_day
ORDER BY day DESC;
