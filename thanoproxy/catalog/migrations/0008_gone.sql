-- Models whose owner is gone: PostgreSQL tells nobody that a role was dropped, or has another name now.  A superuser may do with them
-- what their owner could, as with everything else, and so give them to somebody.

CREATE OR REPLACE FUNCTION thanosql.is_member(role_name name) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT pg_catalog.pg_has_role(r.oid, 'USAGE') FROM pg_catalog.pg_roles r WHERE r.rolname = role_name),
        (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = current_user))
$$;
COMMENT ON FUNCTION thanosql.is_member IS
    'Whether the current role has the privileges of that role; if it is gone, whether the current one is a superuser.';

-- A prepared transaction has neither a process nor a role; the words for it were never reached.
CREATE OR REPLACE FUNCTION thanosql.holder_of(model_name text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN l.pid IS NULL THEN 'A prepared transaction holds the name.'
        ELSE format('Process %s of role "%s" holds the name.', l.pid, a.usename)
    END
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN thanosql.model m ON m.name = model_name
    LEFT JOIN pg_catalog.pg_roles o ON o.rolname = m.owner
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid = 1952997742::oid AND l.objid = hashtext(model_name)::oid
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND (o.oid IS NULL OR a.usesysid IS NULL OR pg_catalog.pg_has_role(a.usesysid, o.oid, 'MEMBER'))
    ORDER BY a.pid
    LIMIT 1
$$;
