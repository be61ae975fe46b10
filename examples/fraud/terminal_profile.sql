-- What was known of a terminal at the midnight that begins the day `as_of`.
--
-- Reads `transactions`, and `wanted` (terminal_id, as_of): the profiles to make. As customer_profile.sql, the same text
-- serves training and serving. Fraud is told seven days after its payment, so windows over it end seven days earlier.
WITH payments AS (
    SELECT TERMINAL_ID AS terminal_id, TX_DATETIME AS time, round(TX_AMOUNT * 100)::HUGEINT AS cents, TX_FRAUD AS fraud
    FROM transactions
),
daily AS (
    SELECT terminal_id, time::DATE AS as_of, count(*) AS payments, sum(cents) AS cents, sum(fraud) AS frauds
    FROM payments
    GROUP BY ALL
),
timeline AS (
    SELECT *, wanted.as_of IS NOT NULL AS is_wanted
    FROM daily FULL JOIN wanted USING (terminal_id, as_of)
)
SELECT
    terminal_id,
    as_of::TIMESTAMP AS as_of,
    coalesce(sum(payments) OVER last_1d, 0)::INTEGER AS tx_count_1d,
    coalesce(sum(payments) OVER last_7d, 0)::INTEGER AS tx_count_7d,
    coalesce(sum(payments) OVER last_30d, 0)::INTEGER AS tx_count_30d,
    coalesce(sum(frauds) OVER told_30d, 0)::INTEGER AS chargebacks_30d,
    coalesce(sum(cents) OVER last_7d / sum(payments) OVER last_7d / 100, 0)::FLOAT AS avg_amount_7d,
    coalesce(sum(cents) OVER last_30d / sum(payments) OVER last_30d / 100, 0)::FLOAT AS avg_amount_30d,
    coalesce(sum(frauds) OVER told_1d / sum(payments) OVER told_1d, 0)::FLOAT AS fraud_rate_1d,
    coalesce(sum(frauds) OVER told_7d / sum(payments) OVER told_7d, 0)::FLOAT AS fraud_rate_7d,
    coalesce(sum(frauds) OVER told_30d / sum(payments) OVER told_30d, 0)::FLOAT AS fraud_rate_30d
FROM timeline
WINDOW
    history AS (PARTITION BY terminal_id ORDER BY as_of),
    last_1d AS (history RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    last_7d AS (history RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    last_30d AS (history RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    told_1d AS (history RANGE BETWEEN INTERVAL 8 DAY PRECEDING AND INTERVAL 8 DAY PRECEDING),
    told_7d AS (history RANGE BETWEEN INTERVAL 14 DAY PRECEDING AND INTERVAL 8 DAY PRECEDING),
    told_30d AS (history RANGE BETWEEN INTERVAL 37 DAY PRECEDING AND INTERVAL 8 DAY PRECEDING)
QUALIFY is_wanted
