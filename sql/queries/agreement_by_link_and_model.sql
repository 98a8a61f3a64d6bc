-- How often did each model's prediction agree with the oracle, per kind of link?
SELECT
    model_version,
    link_type,
    count(*) AS labelled_transfers,
    round(100.0 * count(*) FILTER (WHERE predicted = optimal) / count(*), 2) AS agreement_percent
FROM transfers
WHERE optimal IS NOT NULL AND predicted IS NOT NULL
GROUP BY model_version, link_type
ORDER BY model_version, link_type;
