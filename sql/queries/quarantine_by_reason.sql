-- What is wrong with the rows that were refused, and since when?
SELECT reason, source, rows, first_day, last_day, example_transfer_id
FROM quarantine_by_reason
ORDER BY rows DESC;
