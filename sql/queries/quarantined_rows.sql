-- The latest refused rows as they were read; raw ->> 'column' picks a value.
SELECT day, region, reason, transfer_id, raw ->> 'node_id' AS node_id, raw ->> 'available_bandwidth_mbps' AS bandwidth
FROM quarantined_transfers
ORDER BY id DESC
LIMIT 50;
