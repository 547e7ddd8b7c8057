-- The catalogue of models and jobs.  Rules that hold throughout:
--   * Rights are PostgreSQL's: a row belongs to a role, row-level security asks whether the current role has that role's privileges.
--   * Roles are kept by name, so that a dump restores elsewhere and a dropped role is no error; is_member() is the only test.
--   * Functions run as their caller with a pinned search_path.  The one exception says why.
--   * Nothing here is trusted by the proxy: a row's weights are used only after its mac was checked with a key kept outside.

CREATE SCHEMA thanosql;
COMMENT ON SCHEMA thanosql IS 'thanoproxy: models and jobs. Made by `thanoproxy init`.';

CREATE TABLE thanosql.migration (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE FUNCTION thanosql.is_member(role_name name) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role_name AND pg_catalog.pg_has_role(r.oid, 'USAGE'))
$$;
COMMENT ON FUNCTION thanosql.is_member IS 'Whether the current role has the privileges of that role; false if it is gone.';


-- Models.  One row of model for each name, so that all versions of a model have one owner; the owner is repeated in the rows that
-- belong to it, which keeps each policy to columns of its own table (policies that read each other would recurse).

CREATE TABLE thanosql.model (
    name text COLLATE "C" PRIMARY KEY CHECK (name <> '' AND pg_catalog.octet_length(name) <= 63),
    owner name NOT NULL DEFAULT current_user,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    UNIQUE (name, owner)
);

CREATE TABLE thanosql.model_version (
    name text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    owner name NOT NULL DEFAULT current_user,
    architecture text NOT NULL,
    classes text[] NOT NULL,
    options jsonb NOT NULL DEFAULT '{}',
    metrics jsonb NOT NULL DEFAULT '{}',
    images bigint NOT NULL CHECK (images >= 0),
    artifact text NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    mac bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (name, version),
    FOREIGN KEY (name, owner) REFERENCES thanosql.model (name, owner) ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON COLUMN thanosql.model_version.artifact IS 'content hash of the weights and their manifest in the artifact store';
COMMENT ON COLUMN thanosql.model_version.mac IS 'the proxy''s seal over owner, name, version and artifact';

CREATE TABLE thanosql.model_grant (
    name text COLLATE "C" NOT NULL,
    owner name NOT NULL,
    grantee name NOT NULL,
    privilege text NOT NULL DEFAULT 'USAGE' CHECK (privilege = 'USAGE'),
    grantor name NOT NULL DEFAULT current_user,
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (name, grantee, privilege),
    FOREIGN KEY (name, owner) REFERENCES thanosql.model (name, owner) ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON COLUMN thanosql.model_grant.grantee IS 'a role, or ''public'' for all of them (no role can have that name)';

ALTER TABLE thanosql.model ENABLE ROW LEVEL SECURITY;
ALTER TABLE thanosql.model_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE thanosql.model_grant ENABLE ROW LEVEL SECURITY;

CREATE POLICY seen ON thanosql.model_grant FOR SELECT
    USING (grantee = 'public' OR thanosql.is_member(grantee) OR thanosql.is_member(owner));

CREATE POLICY seen ON thanosql.model FOR SELECT
    USING (thanosql.is_member(owner) OR EXISTS (
        SELECT FROM thanosql.model_grant g
        WHERE g.name = model.name AND (g.grantee = 'public' OR thanosql.is_member(g.grantee))));
CREATE POLICY made ON thanosql.model FOR INSERT WITH CHECK (owner = current_user);
CREATE POLICY dropped ON thanosql.model FOR DELETE USING (thanosql.is_member(owner));

CREATE POLICY seen ON thanosql.model_version FOR SELECT
    USING (thanosql.is_member(owner) OR EXISTS (
        SELECT FROM thanosql.model_grant g
        WHERE g.name = model_version.name AND (g.grantee = 'public' OR thanosql.is_member(g.grantee))));
CREATE POLICY made ON thanosql.model_version FOR INSERT WITH CHECK (thanosql.is_member(owner));
CREATE POLICY dropped ON thanosql.model_version FOR DELETE USING (thanosql.is_member(owner));

CREATE VIEW thanosql.models WITH (security_invoker = true) AS
    SELECT DISTINCT ON (v.name)
        v.name,
        v.architecture AS class_name,
        v.created_at AT TIME ZONE 'UTC' AS last_updated_utc,
        v.version,
        v.owner,
        v.architecture,
        v.classes,
        v.options,
        v.metrics,
        v.images,
        v.size_bytes,
        v.artifact,
        v.created_at
    FROM thanosql.model_version v
    ORDER BY v.name, v.version DESC;
COMMENT ON VIEW thanosql.models IS 'The models that you may use, each in its latest version.';


-- What BUILD and DROP call in the user's own transaction.

-- SECURITY DEFINER: a name may be taken by a model that the caller cannot see, and a BUILD must know that before it trains, not
-- when the row is written.  It tells no more than the unique key would: whether a name is taken.
CREATE FUNCTION thanosql.name_is_taken(model_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM thanosql.model m WHERE m.name = model_name)
$$;

CREATE FUNCTION thanosql.reserve_model(model_name text, overwrite boolean, OUT owner text, OUT version integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Nothing is written: a transaction id held as long as a training would hold back vacuum in the whole database.
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot build a model in a read-only transaction' USING ERRCODE = '25006';
    END IF;
    IF model_name = '' OR octet_length(model_name) > 63 THEN
        RAISE EXCEPTION 'the name of a model has between 1 and 63 bytes' USING ERRCODE = '42602';
    END IF;
    SELECT m.owner INTO owner FROM thanosql.model m WHERE m.name = model_name;
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
    -- Two trainings for one name would end with one of them lost: let the second know at once.
    IF NOT pg_try_advisory_xact_lock(1952997742, hashtext(model_name)) THEN
        RAISE EXCEPTION 'model "%" is being built by another session', model_name USING ERRCODE = '55P03';
    END IF;
    SELECT coalesce(max(v.version), 0) + 1 INTO version FROM thanosql.model_version v WHERE v.name = model_name;
END
$$;
COMMENT ON FUNCTION thanosql.reserve_model IS 'The owner and the version that a BUILD of this name would have, or why it may not.';

CREATE FUNCTION thanosql.register_model(payload jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model_name text := payload ->> 'name';
    model_owner name := payload ->> 'owner';
BEGIN
    IF NOT thanosql.is_member(model_owner) THEN
        RAISE EXCEPTION 'must be a member of role %', quote_ident(model_owner) USING ERRCODE = '42501';
    END IF;
    IF NOT EXISTS (SELECT FROM thanosql.model m WHERE m.name = model_name) THEN
        INSERT INTO thanosql.model (name, owner) VALUES (model_name, model_owner);
    END IF;
    INSERT INTO thanosql.model_version
        (name, version, owner, architecture, classes, options, metrics, images, artifact, size_bytes, mac)
    VALUES (
        model_name,
        (payload ->> 'version')::integer,
        model_owner,
        payload ->> 'architecture',
        ARRAY(SELECT c.class FROM jsonb_array_elements_text(payload -> 'classes') WITH ORDINALITY AS c (class, place) ORDER BY c.place),
        payload -> 'options',
        payload -> 'metrics',
        (payload ->> 'images')::bigint,
        payload ->> 'artifact',
        (payload ->> 'size_bytes')::bigint,
        decode(payload ->> 'mac', 'hex'));
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'model "%" already exists', model_name
            USING ERRCODE = '42710', DETAIL = 'Another session created it in the meantime.';
    WHEN foreign_key_violation THEN
        RAISE EXCEPTION 'the name "%" is taken by a model of another role', model_name
            USING ERRCODE = '42501', DETAIL = 'Another session created it in the meantime.';
END
$$;

CREATE PROCEDURE thanosql.drop_model(model_name text, if_exists boolean DEFAULT false)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model_owner name;
BEGIN
    SELECT m.owner INTO model_owner FROM thanosql.model m WHERE m.name = model_name;
    IF FOUND AND NOT thanosql.is_member(model_owner) THEN
        RAISE EXCEPTION 'must be owner of model %', quote_ident(model_name) USING ERRCODE = '42501';
    END IF;
    DELETE FROM thanosql.model m WHERE m.name = model_name;
    IF NOT FOUND AND if_exists THEN
        RAISE NOTICE 'model "%" does not exist, skipping', model_name;
    ELSIF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" does not exist', model_name USING ERRCODE = '42704';
    END IF;
END
$$;


-- The gate: the proxy sends COPY thanosql.gate FROM STDIN in the middle of a string of statements, and the server waits there until
-- the proxy says how to go on (https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-COPY).

CREATE VIEW thanosql.gate AS SELECT NULL::text AS action, NULL::text AS payload WHERE false;
COMMENT ON VIEW thanosql.gate IS 'Takes orders from the proxy in the middle of a string of statements: wait, raise, register.';

CREATE FUNCTION thanosql.obey() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    failure jsonb;
    complaint text;
    code text;
BEGIN
    IF NEW.action = 'wait' THEN
        RETURN NULL;
    ELSIF NEW.action = 'register' THEN
        PERFORM thanosql.register_model(NEW.payload::jsonb);
        RETURN NEW;
    ELSIF NEW.action IS DISTINCT FROM 'raise' THEN
        RAISE EXCEPTION 'thanosql.gate knows no action "%"', NEW.action USING ERRCODE = '22023';
    END IF;
    failure := NEW.payload::jsonb;
    complaint := coalesce(failure ->> 'message', 'unknown error');
    code := coalesce(failure ->> 'sqlstate', 'XX000');
    -- RAISE refuses a NULL in USING, and an empty DETAIL is shown as one.
    IF failure ->> 'detail' IS NOT NULL AND failure ->> 'hint' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = complaint, DETAIL = failure ->> 'detail', HINT = failure ->> 'hint';
    ELSIF failure ->> 'detail' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = complaint, DETAIL = failure ->> 'detail';
    ELSIF failure ->> 'hint' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = complaint, HINT = failure ->> 'hint';
    END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = complaint;
END
$$;

CREATE TRIGGER obey INSTEAD OF INSERT ON thanosql.gate FOR EACH ROW EXECUTE FUNCTION thanosql.obey();


-- Jobs, written by the proxy on a connection of its own, so that other sessions see them while they run.  No foreign key to a model:
-- that row is not committed yet, and never will be if the job fails.

CREATE TABLE thanosql.job (
    id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('BUILD', 'FIT', 'EVALUATE')),
    model text COLLATE "C" NOT NULL,
    role name NOT NULL,
    backend_pid integer,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'canceled')),
    phase text NOT NULL DEFAULT 'queued',
    images_done bigint NOT NULL DEFAULT 0,
    images_total bigint,
    images_per_second double precision,
    loss double precision,
    accuracy double precision,
    eta timestamptz,
    sqlstate text,
    error text,
    version integer,
    proxy text NOT NULL,
    proxy_lock integer NOT NULL CHECK (proxy_lock > 0),
    started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    finished_at timestamptz
);
CREATE INDEX ON thanosql.job (proxy_lock) WHERE finished_at IS NULL;
COMMENT ON COLUMN thanosql.job.backend_pid IS 'the server process of the client''s session, as in pg_stat_activity';
COMMENT ON COLUMN thanosql.job.proxy_lock IS 'second key of the advisory lock that the proxy holds as long as it lives';

CREATE TABLE thanosql.training_log (
    job uuid NOT NULL REFERENCES thanosql.job ON DELETE CASCADE,
    model text COLLATE "C" NOT NULL,
    version integer,
    epoch integer NOT NULL,
    loss double precision,
    accuracy double precision,
    validation_loss double precision,
    validation_accuracy double precision,
    learning_rate double precision,
    seconds double precision,
    PRIMARY KEY (job, epoch)
);
COMMENT ON TABLE thanosql.training_log IS 'One row for each epoch of a training.';

ALTER TABLE thanosql.job ENABLE ROW LEVEL SECURITY;
ALTER TABLE thanosql.training_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON thanosql.job FOR SELECT USING (thanosql.is_member(role));
CREATE POLICY seen ON thanosql.training_log FOR SELECT USING (EXISTS (SELECT FROM thanosql.job j WHERE j.id = training_log.job));

-- A session that dies loses its advisory locks, however it dies.  Locks are per database, and so are jobs.
CREATE FUNCTION thanosql.proxy_lives(lock_key integer) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_locks l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
          AND l.classid = 1952997743::oid AND l.objid = lock_key::oid
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

CREATE VIEW thanosql.jobs WITH (security_invoker = true) AS
    SELECT
        j.id,
        j.kind,
        j.model,
        CASE WHEN a.abandoned THEN 'failed' ELSE j.state END AS state,
        j.phase,
        j.images_done,
        j.images_total,
        j.images_per_second,
        CASE WHEN NOT a.abandoned THEN j.eta END AS eta,
        CASE WHEN a.abandoned THEN 'the proxy that ran this job is gone' ELSE j.error END AS error,
        CASE WHEN a.abandoned THEN '58000' ELSE j.sqlstate END AS sqlstate,
        j.loss,
        j.accuracy,
        j.version,
        j.role,
        j.backend_pid AS pid,
        j.started_at,
        j.updated_at,
        j.finished_at,
        j.proxy
    FROM thanosql.job j
    CROSS JOIN LATERAL (SELECT j.finished_at IS NULL AND NOT thanosql.proxy_lives(j.proxy_lock) AS abandoned) a;
COMMENT ON VIEW thanosql.jobs IS 'Your jobs, running and over.';


GRANT USAGE ON SCHEMA thanosql TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA thanosql TO PUBLIC;
GRANT INSERT, DELETE ON thanosql.model, thanosql.model_version TO PUBLIC;
GRANT INSERT ON thanosql.gate TO PUBLIC;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA thanosql TO PUBLIC;
