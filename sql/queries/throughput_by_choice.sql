-- What throughput did each executed choice reach on each kind of link, over all bytes sent?
SELECT
    link_type,
    executed,
    count(*) AS transfers,
    round(sum(size_megabytes), 1) AS megabytes,
    round(8 * sum(size_megabytes) / nullif(sum(wire_seconds + cpu_seconds), 0), 1) AS megabit_per_s
FROM transfers
GROUP BY link_type, executed
ORDER BY link_type, executed;
