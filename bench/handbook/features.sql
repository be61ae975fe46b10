-- The handbook's twelve windows by plain joins of every payment with those before it: what Tailrace is held against.
-- $hop_1d_s, $hop_7d_s, $hop_30d_s: what the beginning of a window is a multiple of, in seconds; of the handbook's own, 1.
-- $open_s: 1 where an event right at the beginning is outside, as in pandas' rolling windows; else 0.
WITH happened AS (
    SELECT
        TRANSACTION_ID AS id,
        CUSTOMER_ID AS customer,
        TERMINAL_ID AS terminal,
        epoch(TX_DATETIME)::BIGINT AS at_s,
        round(TX_AMOUNT * 100)::BIGINT AS cents,
        TX_FRAUD::BIGINT AS is_fraud
    FROM transactions
),
asked AS (
    SELECT
        id,
        customer,
        terminal,
        at_s,
        (at_s + $open_s - 86400) // $hop_1d_s * $hop_1d_s AS begin_1d_s,
        (at_s + $open_s - 604800) // $hop_7d_s * $hop_7d_s AS begin_7d_s,
        (at_s + $open_s - 2592000) // $hop_30d_s * $hop_30d_s AS begin_30d_s,
        at_s - 604800 AS end_s, -- of what is known of a terminal
        (at_s + $open_s - 691200) // $hop_1d_s * $hop_1d_s AS known_1d_s,
        (at_s + $open_s - 1209600) // $hop_7d_s * $hop_7d_s AS known_7d_s,
        (at_s + $open_s - 3196800) // $hop_30d_s * $hop_30d_s AS known_30d_s
    FROM happened
    WHERE at_s >= $from_s AND at_s < $until_s
),
spent AS (
    SELECT
        asked.id,
        count(*) FILTER (WHERE happened.at_s >= begin_1d_s) AS count_1d,
        avg(cents) FILTER (WHERE happened.at_s >= begin_1d_s) / 100 AS mean_1d,
        count(*) FILTER (WHERE happened.at_s >= begin_7d_s) AS count_7d,
        avg(cents) FILTER (WHERE happened.at_s >= begin_7d_s) / 100 AS mean_7d,
        count(*) AS count_30d,
        avg(cents) / 100 AS mean_30d
    FROM asked
    JOIN happened
        ON happened.customer = asked.customer
        AND happened.at_s >= begin_30d_s
        AND (happened.at_s < asked.at_s OR (happened.at_s = asked.at_s AND happened.id <= asked.id))
    GROUP BY asked.id
),
known AS (
    SELECT
        asked.id,
        count(*) FILTER (WHERE happened.at_s >= known_1d_s) AS count_1d,
        avg(is_fraud) FILTER (WHERE happened.at_s >= known_1d_s) AS risk_1d,
        count(*) FILTER (WHERE happened.at_s >= known_7d_s) AS count_7d,
        avg(is_fraud) FILTER (WHERE happened.at_s >= known_7d_s) AS risk_7d,
        count(*) AS count_30d,
        avg(is_fraud) AS risk_30d
    FROM asked
    JOIN happened
        ON happened.terminal = asked.terminal
        AND happened.at_s >= known_30d_s
        AND (happened.at_s < end_s OR (happened.at_s = end_s AND happened.id < asked.id))
    GROUP BY asked.id
)
SELECT
    asked.id AS transaction_id,
    spent.count_1d AS "CustomerSpending.count_1d",
    spent.mean_1d AS "CustomerSpending.mean_1d",
    spent.count_7d AS "CustomerSpending.count_7d",
    spent.mean_7d AS "CustomerSpending.mean_7d",
    spent.count_30d AS "CustomerSpending.count_30d",
    spent.mean_30d AS "CustomerSpending.mean_30d",
    coalesce(known.count_1d, 0) AS "TerminalRisk.count_1d",
    coalesce(known.risk_1d, 0) AS "TerminalRisk.risk_1d",
    coalesce(known.count_7d, 0) AS "TerminalRisk.count_7d",
    coalesce(known.risk_7d, 0) AS "TerminalRisk.risk_7d",
    coalesce(known.count_30d, 0) AS "TerminalRisk.count_30d",
    coalesce(known.risk_30d, 0) AS "TerminalRisk.risk_30d"
FROM asked
JOIN spent ON spent.id = asked.id
LEFT JOIN known ON known.id = asked.id
ORDER BY asked.id
