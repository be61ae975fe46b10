-- A million customers, whose values are others at each reading: a refresh that writes every row.
SELECT
    range AS customer_id,
    (range + epoch_ms(now())) % 1000 AS payments_30d,
    (range + epoch_ms(now())) % 7 AS chargebacks_1y,
    random() * 100 AS mean_7d,
    random() * 100 AS mean_30d,
    random() * 100 AS mean_90d,
    random() * 100 AS largest_90d
FROM range(1000000)
