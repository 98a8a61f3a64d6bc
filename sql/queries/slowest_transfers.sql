-- Which transfers kept the wire busy longest in the last validated week, and what would have been better?
SELECT decided_at, region, link_type, data_type, size_megabytes, executed, optimal, wire_seconds, cpu_seconds
FROM transfers
WHERE decided_at >= (SELECT max(decided_at) - INTERVAL '7 days' FROM transfers)
ORDER BY wire_seconds DESC
LIMIT 20;
