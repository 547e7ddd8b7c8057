-- Views that hold predictions.  Their definitions call this function where a prediction stands; its arguments are the PREDICT up to its
-- query, the column of its that is meant, and a NULL of that column's type.  The proxy puts the PREDICT in its place again.

CREATE FUNCTION thanosql.saved(statement text, result_column text, sample anyelement) RETURNS anyelement
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'this view holds a PREDICT, which only thanoproxy can run'
        USING ERRCODE = '0A000', DETAIL = statement || '…',
            HINT = 'Connect through thanoproxy, and name the view in the statement itself.';
END
$$;
COMMENT ON FUNCTION thanosql.saved IS 'Stands for a prediction in the definition of a view.';

CREATE VIEW thanosql.saved_view WITH (security_invoker = true) AS
    WITH RECURSIVE found (oid) AS (
        SELECT w.ev_class
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
        WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
          -- By name: a constant would make this view depend on the function itself.
          AND d.refobjid = (SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                            WHERE n.nspname = 'thanosql' AND p.proname = 'saved')
        UNION
        SELECT w.ev_class
        FROM found f
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = f.oid
        JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
    )
    SELECT c.oid::regclass AS view, c.relowner::regrole AS owner, pg_catalog.pg_get_viewdef(c.oid) AS definition
    FROM found f
    JOIN pg_catalog.pg_class c ON c.oid = f.oid
    WHERE c.relkind = 'v';
COMMENT ON VIEW thanosql.saved_view IS 'The views that hold predictions, themselves or by way of others.';

GRANT SELECT ON thanosql.saved_view TO PUBLIC;
GRANT EXECUTE ON FUNCTION thanosql.saved TO PUBLIC;
