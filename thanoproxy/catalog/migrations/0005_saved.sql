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


-- Materialized views that hold predictions.  Theirs are kept here, by role, so that REFRESH predicts only what changed, and so that the
-- server alone can refresh, and restore, what has been predicted before.

CREATE TABLE thanosql.prediction (
    owner name NOT NULL DEFAULT current_user,
    statement text NOT NULL,
    image bytea NOT NULL,
    artifact text NOT NULL,
    identity text NOT NULL DEFAULT '',
    result jsonb NOT NULL,
    predicted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (owner, statement, image)
);
COMMENT ON TABLE thanosql.prediction IS 'What materialized views with predictions are made of.';
COMMENT ON COLUMN thanosql.prediction.image IS 'thanosql.image_key of the image column''s value';
COMMENT ON COLUMN thanosql.prediction.identity IS 'of a file: what changes when it does';

ALTER TABLE thanosql.prediction ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON thanosql.prediction USING (owner = current_user) WITH CHECK (owner = current_user);

CREATE FUNCTION thanosql.image_key(image text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT sha256(convert_to(image, 'UTF8')) $$;

CREATE FUNCTION thanosql.image_key(image bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT sha256(image) $$;

CREATE FUNCTION thanosql.predicted(statement text, result_column text, image_key bytea, sample anyelement) RETURNS anyelement
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept jsonb;
BEGIN
    IF image_key IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT p.result INTO kept
    FROM thanosql.prediction p
    WHERE p.owner = current_user AND p.statement = predicted.statement AND p.image = image_key;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'an image has no prediction yet, and only thanoproxy can make one'
            USING ERRCODE = '0A000', DETAIL = statement || '…',
                HINT = 'Connect through thanoproxy as the owner of the materialized view, and send REFRESH by itself.';
    END IF;
    RETURN kept ->> result_column;
END
$$;
COMMENT ON FUNCTION thanosql.predicted IS 'A prediction in the definition of a materialized view.';

CREATE VIEW thanosql.saved_materialized_view WITH (security_invoker = true) AS
    SELECT DISTINCT c.oid::regclass AS view, c.relowner::regrole AS owner, pg_catalog.pg_get_viewdef(c.oid) AS definition
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind = 'm'
    WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
      AND d.refobjid = (SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                        WHERE n.nspname = 'thanosql' AND p.proname = 'predicted');
COMMENT ON VIEW thanosql.saved_materialized_view IS 'The materialized views that hold predictions.';

GRANT SELECT ON thanosql.saved_view, thanosql.saved_materialized_view TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON thanosql.prediction TO PUBLIC;
GRANT EXECUTE ON FUNCTION thanosql.saved, thanosql.image_key(text), thanosql.image_key(bytea), thanosql.predicted TO PUBLIC;
