-- Every job is shown, EXPORT and UPLOAD too; and whoever keeps a name from being built is named, or does not count.

ALTER TABLE thanosql.job
    DROP CONSTRAINT job_kind_check,
    ADD CONSTRAINT job_kind_check CHECK (kind IN ('BUILD', 'FIT', 'EVALUATE', 'EXPORT', 'UPLOAD'));

-- Advisory locks are anybody's to take.  Of a model that is there, a name can be held for a reason only by sessions whose user may
-- become its owner; all others are strangers.  Without its lock a BUILD is as safe as ever, by the unique keys: only a second one of
-- the same name would learn of the first when it ends, and not when it begins.
CREATE FUNCTION thanosql.holder_of(model_name text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(format('Process %s of role "%s" holds the name.', a.pid, a.usename), 'A prepared transaction holds the name.')
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
COMMENT ON FUNCTION thanosql.holder_of IS 'Which other session builds or alters that model, in words; NULL if none does.';

CREATE OR REPLACE FUNCTION thanosql.reserve_model(model_name text, overwrite boolean, OUT owner text, OUT version integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_dropped integer;
    holder text;
BEGIN
    -- Nothing is written: a transaction id held as long as a training would hold back vacuum in the whole database.
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot build a model in a read-only transaction' USING ERRCODE = '25006';
    END IF;
    IF model_name = '' OR octet_length(model_name) > 63 THEN
        RAISE EXCEPTION 'the name of a model has between 1 and 63 bytes' USING ERRCODE = '42602';
    END IF;
    SELECT m.owner, m.retired INTO owner, last_dropped FROM thanosql.model m WHERE m.name = model_name;
    IF NOT FOUND AND thanosql.name_is_taken(model_name) THEN
        RAISE EXCEPTION 'the name "%" is taken by a model of another role', model_name
            USING ERRCODE = '42501', HINT = 'Choose another name.';
    ELSIF NOT FOUND THEN
        owner := current_user;
    ELSIF NOT thanosql.is_member(owner::name) THEN
        RAISE EXCEPTION 'must be owner of model %', quote_ident(model_name) USING ERRCODE = '42501';
    ELSIF overwrite IS NOT TRUE THEN
        RAISE EXCEPTION 'model "%" already exists', model_name
            USING ERRCODE = '42710', HINT = format('Use OPTIONS (overwrite=true), or DROP MODEL %I first.', model_name);
    END IF;
    -- Two trainings for one name would end with one of them lost: let the second know at once.  So would a training for a name that
    -- is being given or taken away (`hold_name`).
    IF NOT pg_try_advisory_xact_lock(1952997742, hashtext(model_name)) THEN
        holder := thanosql.holder_of(model_name);
        IF holder IS NOT NULL THEN
            RAISE EXCEPTION 'model "%" is being built or altered by another session', model_name USING ERRCODE = '55P03', DETAIL = holder;
        END IF;
        PERFORM pg_try_advisory_xact_lock(1952997742, hashtext(model_name));  -- it may have been let go this moment
    END IF;
    SELECT greatest(coalesce(max(v.version), 0), coalesce(last_dropped, 0)) + 1 INTO version
    FROM thanosql.model_version v WHERE v.name = model_name;
END
$$;

CREATE OR REPLACE FUNCTION thanosql.hold_name(model_name text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    holder text;
BEGIN
    -- Shared with others who do the same: they wait for each other at the row.  For a BUILD, which may last hours, nobody waits.  But
    -- one that was committed this moment may still hold its lock: rows are let go a little earlier (ResourceOwnerRelease).
    FOR attempt IN 1..20 LOOP
        IF pg_try_advisory_xact_lock_shared(1952997742, hashtext(model_name)) THEN
            RETURN;
        END IF;
        holder := thanosql.holder_of(model_name);
        IF holder IS NULL THEN
            PERFORM pg_try_advisory_xact_lock_shared(1952997742, hashtext(model_name));
            RETURN;
        END IF;
        PERFORM pg_sleep(0.025);
    END LOOP;
    RAISE EXCEPTION 'model "%" is being built by another session', model_name USING ERRCODE = '55P03', DETAIL = holder;
END
$$;

GRANT EXECUTE ON FUNCTION thanosql.holder_of TO PUBLIC;

-- The lock of a proxy counts only where it is held by a role that may write jobs: anybody could take one that was let go.
CREATE OR REPLACE FUNCTION thanosql.proxy_lives(lock_key integer) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
          AND l.classid = 1952997743::oid AND l.objid = lock_key::oid
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
          AND pg_catalog.has_table_privilege(a.usesysid, 'thanosql.job', 'INSERT'))
$$;
