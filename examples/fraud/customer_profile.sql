-- What was known of a customer at the midnight that begins the day `as_of`.
--
-- Reads `transactions`, and `wanted` (customer_id, as_of): the profiles to make. Every window ends before `as_of`, and
-- the same text makes the training set's profiles (a row for each customer and day) and the served ones (one row for
-- each customer), so that training and serving cannot differ. Amounts are summed in cents, which is exact in any order.
-- A chargeback is told seven days after its payment, so its window ends seven days earlier.
WITH payments AS (
    SELECT CUSTOMER_ID AS customer_id, TX_DATETIME AS time, round(TX_AMOUNT * 100)::HUGEINT AS cents, TX_FRAUD AS fraud
    FROM transactions
),
daily AS (
    SELECT
        customer_id,
        time::DATE AS as_of,
        count(*) AS payments,
        count(*) FILTER (hour(time) < 6) AS payments_at_night,
        sum(cents) AS cents,
        sum(cents * cents) AS cents_squared,
        max(cents) AS cents_max,
        sum(fraud) AS frauds
    FROM payments
    GROUP BY ALL
),
timeline AS (
    SELECT *, wanted.as_of IS NOT NULL AS is_wanted
    FROM daily FULL JOIN wanted USING (customer_id, as_of)
)
SELECT
    customer_id,
    as_of::TIMESTAMP AS as_of,
    coalesce(sum(payments) OVER last_1d, 0)::INTEGER AS tx_count_1d,
    coalesce(sum(payments) OVER last_7d, 0)::INTEGER AS tx_count_7d,
    coalesce(sum(payments) OVER last_30d, 0)::INTEGER AS tx_count_30d,
    coalesce(sum(frauds) OVER told_90d, 0)::INTEGER AS chargebacks_90d,
    coalesce(sum(cents) OVER last_7d / sum(payments) OVER last_7d / 100, 0)::FLOAT AS avg_amount_7d,
    coalesce(sum(cents) OVER last_30d / sum(payments) OVER last_30d / 100, 0)::FLOAT AS avg_amount_30d,
    coalesce(sum(cents) OVER last_90d / sum(payments) OVER last_90d / 100, 0)::FLOAT AS avg_amount_90d,
    coalesce(sqrt(
        sum(payments) OVER last_90d * sum(cents_squared) OVER last_90d - sum(cents) OVER last_90d * sum(cents) OVER last_90d
    ) / sum(payments) OVER last_90d / 100, 0)::FLOAT AS std_amount_90d,
    coalesce(max(cents_max) OVER last_7d / 100, 0)::FLOAT AS max_amount_7d,
    coalesce(max(cents_max) OVER last_90d / 100, 0)::FLOAT AS max_amount_90d,
    coalesce(sum(payments_at_night) OVER last_90d / sum(payments) OVER last_90d, 0)::FLOAT AS night_share_90d
FROM timeline
WINDOW
    history AS (PARTITION BY customer_id ORDER BY as_of),
    last_1d AS (history RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    last_7d AS (history RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    last_30d AS (history RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    last_90d AS (history RANGE BETWEEN INTERVAL 90 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING),
    told_90d AS (history RANGE BETWEEN INTERVAL 97 DAY PRECEDING AND INTERVAL 8 DAY PRECEDING)
QUALIFY is_wanted
