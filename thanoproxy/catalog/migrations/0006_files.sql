-- A dump is restored with row_security off (pg_dump.c, setup_connection), and so is the REFRESH in it: the owner of a materialized view,
-- to whom the policy of thanosql.prediction applies, would get an error (42501) in place of his own rows.

ALTER FUNCTION thanosql.predicted(text, text, bytea, anyelement) SET row_security = on;
