-- What a prepared statement has in a prediction's place until the proxy runs it.  PostgreSQL can describe that, and nobody can take it
-- for a prediction: run without the proxy, or by a way that the proxy does not see (EXECUTE in a function), it fails.

CREATE FUNCTION thanosql.unpredicted() RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'this statement holds a PREDICT, which only thanoproxy can run'
        USING ERRCODE = '0A000', HINT = 'Connect through thanoproxy, and run the statement by itself.';
END
$$;
COMMENT ON FUNCTION thanosql.unpredicted IS 'Stands for a prediction in statements that are prepared and not yet run.';
