-- What stands for a prediction stands for an embedding and a metric, too: its text is cast to their types, and never comes to be.

CREATE OR REPLACE FUNCTION thanosql.unpredicted() RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'this statement holds a PREDICT, CONVERT or EVALUATE, which only thanoproxy can run'
        USING ERRCODE = '0A000', HINT = 'Connect through thanoproxy, and run the statement by itself.';
END
$$;
COMMENT ON FUNCTION thanosql.unpredicted IS
    'Stands for a prediction, an embedding or a metric in statements that are prepared and not yet run.';
