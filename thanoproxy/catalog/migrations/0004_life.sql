-- The life of a model after its BUILD: rename, another owner, an older version, privileges, the end of one version, a description.
--
-- What is sealed.  A row's mac is the proxy's word that a BUILD by `sealed_owner`, of a model then called `sealed_name`, made this
-- version with these weights.  It says nothing about today's name and owner: that a row may have come from there to here is
-- PostgreSQL's word, and holds because
--   * a row can only be inserted with its own name and owner in the sealed columns (policy `made`), for a role one is a member of;
--   * nobody may update a row of model_version.  Its name and owner follow those of its model, by the foreign key alone;
--   * a model's owner may be changed by its owner alone, to a role that it may become (policy `altered`, trigger `heed_owner`).
-- So whoever copies somebody else's row has to write his own role into it, and then the mac does not fit.  Proxy and database are
-- both needed: the one cannot tell who may change what, the other does not know the key.

ALTER TABLE thanosql.model
    ADD COLUMN current_version integer,
    ADD COLUMN retired integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN thanosql.model.current_version IS 'what a PREDICT without @ uses; NULL, or a version that is not there, is the newest';
COMMENT ON COLUMN thanosql.model.retired IS 'highest version that was dropped: a number never means another version than it did';

ALTER TABLE thanosql.model_version
    ADD COLUMN sealed_name text COLLATE "C",
    ADD COLUMN sealed_owner name,
    ADD COLUMN job uuid;
UPDATE thanosql.model_version SET sealed_name = name, sealed_owner = owner;
ALTER TABLE thanosql.model_version
    ALTER COLUMN sealed_name SET NOT NULL,
    ALTER COLUMN sealed_owner SET NOT NULL;
CREATE INDEX ON thanosql.model_version (job);
COMMENT ON COLUMN thanosql.model_version.mac IS 'the proxy''s seal over sealed_owner, sealed_name, version and artifact';
COMMENT ON COLUMN thanosql.model_version.sealed_name IS 'the model''s name when this version was made';
COMMENT ON COLUMN thanosql.model_version.sealed_owner IS 'the model''s owner when this version was made';
COMMENT ON COLUMN thanosql.model_version.job IS 'the job that made it, if it is still known';

-- The grantor is always the owner, as it is in PostgreSQL where nobody has grant options, and a new owner inherits what was granted.
ALTER TABLE thanosql.model_grant DROP COLUMN grantor;
ALTER TABLE thanosql.model_grant ADD COLUMN grantor name GENERATED ALWAYS AS (owner) STORED;

CREATE FUNCTION thanosql.may_become(role_name name) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- Before 16 every member may SET ROLE, and the word is not known.
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_roles r
        WHERE r.rolname = role_name AND pg_catalog.pg_has_role(
            r.oid, CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END))
$$;
COMMENT ON FUNCTION thanosql.may_become IS 'Whether the current role may SET ROLE to that role; false if it is gone.';


-- Policies.

-- A name and its owner are shown to those who may become the owner: they could not give a model away to a role whose privileges they
-- do not inherit if the row were out of sight then.  PostgreSQL shows names and owners to everybody.
ALTER POLICY seen ON thanosql.model
    USING (thanosql.is_member(owner) OR thanosql.may_become(owner) OR EXISTS (
        SELECT FROM thanosql.model_grant g
        WHERE g.name = model.name AND (g.grantee = 'public' OR thanosql.is_member(g.grantee))));
CREATE POLICY altered ON thanosql.model FOR UPDATE
    USING (thanosql.is_member(owner)) WITH CHECK (thanosql.is_member(owner) OR thanosql.may_become(owner));

ALTER POLICY made ON thanosql.model_version
    WITH CHECK (thanosql.is_member(owner) AND sealed_name = name AND sealed_owner = owner);

-- The foreign key ties a grant to the model's real owner.
CREATE POLICY granted ON thanosql.model_grant FOR INSERT WITH CHECK (thanosql.is_member(owner));
CREATE POLICY revoked ON thanosql.model_grant FOR DELETE USING (thanosql.is_member(owner));

-- Who may see a version may see how its training went: its metrics say as much.  The job's own row stays its role's.
ALTER POLICY seen ON thanosql.training_log
    USING (EXISTS (SELECT FROM thanosql.job j WHERE j.id = training_log.job)
        OR EXISTS (SELECT FROM thanosql.model_version v WHERE v.job = training_log.job));

CREATE FUNCTION thanosql.heed_owner() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A policy sees the new row only, and must let pass those who rename what they may use and not become.
    IF NOT thanosql.may_become(NEW.owner) THEN
        RAISE EXCEPTION 'must be able to SET ROLE "%"', NEW.owner USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER heed_owner BEFORE UPDATE OF owner ON thanosql.model
    FOR EACH ROW WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION thanosql.heed_owner();

CREATE FUNCTION thanosql.fill_seal() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What a restored row says is kept: it may have been renamed since.
    NEW.sealed_name := coalesce(NEW.sealed_name, NEW.name);
    NEW.sealed_owner := coalesce(NEW.sealed_owner, NEW.owner);
    RETURN NEW;
END
$$;
CREATE TRIGGER fill_seal BEFORE INSERT ON thanosql.model_version FOR EACH ROW EXECUTE FUNCTION thanosql.fill_seal();


-- What may be seen.

CREATE VIEW thanosql.model_versions WITH (security_invoker = true) AS
    SELECT
        v.name,
        v.version,
        row_number() OVER (PARTITION BY v.name ORDER BY (v.version = m.current_version) DESC NULLS LAST, v.version DESC) = 1 AS current,
        v.owner,
        v.architecture,
        v.classes,
        v.options,
        v.metrics,
        v.images,
        v.size_bytes,
        v.artifact,
        v.mac,
        v.sealed_name,
        v.sealed_owner,
        v.job,
        v.created_at
    FROM thanosql.model_version v
    JOIN thanosql.model m ON m.name = v.name;
COMMENT ON VIEW thanosql.model_versions IS 'The versions of the models that you may use; the current one is what a PREDICT without @ uses.';

CREATE OR REPLACE VIEW thanosql.models WITH (security_invoker = true) AS
    SELECT
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
        v.created_at,
        ARRAY(SELECT o.version FROM thanosql.model_version o WHERE o.name = v.name ORDER BY o.version) AS versions,
        (SELECT string_agg(
                format('%s=U/%s', CASE WHEN g.grantee <> 'public' THEN quote_ident(g.grantee) END, quote_ident(g.grantor)),
                E'\n' ORDER BY g.granted_at, g.grantee)
            FROM thanosql.model_grant g WHERE g.name = v.name) AS privileges
    FROM thanosql.model_versions v
    WHERE v.current
    ORDER BY v.name;
COMMENT ON VIEW thanosql.models IS 'The models that you may use, each in its current version.';

CREATE FUNCTION thanosql.refuse_missing(model_name text, wanted integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    there text := (SELECT string_agg(v.version::text, ', ' ORDER BY v.version) FROM thanosql.model_version v WHERE v.name = model_name);
BEGIN
    IF there IS NULL OR wanted IS NULL THEN
        RAISE EXCEPTION 'model "%" does not exist', model_name USING ERRCODE = '42704', HINT = 'LIST MODEL shows the models you may use.';
    END IF;
    RAISE EXCEPTION 'model "%" does not exist', model_name || '@' || wanted
        USING ERRCODE = '42704', HINT = format('Versions of model %I are: %s.', model_name, there);
END
$$;

CREATE FUNCTION thanosql.describe_model(model_name text, wanted integer DEFAULT NULL) RETURNS TABLE (property text, value text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shown thanosql.model_versions;
    model thanosql.models;
BEGIN
    SELECT * INTO model FROM thanosql.models m WHERE m.name = model_name;
    SELECT * INTO shown FROM thanosql.model_versions v
    WHERE v.name = model_name AND v.version = coalesce(wanted, model.version);
    IF shown.name IS NULL THEN
        PERFORM thanosql.refuse_missing(model_name, wanted);
    END IF;
    RETURN QUERY VALUES
        ('name', shown.name),
        ('version', shown.version || CASE WHEN shown.current THEN ' (current)' ELSE format(' (current is %s)', model.version) END),
        ('versions', array_to_string(model.versions, ', ')),
        ('architecture', shown.architecture),
        ('classes', array_to_string(shown.classes, ', ')),
        ('data', shown.images || ' images'),
        ('data sha256', shown.metrics ->> 'data_sha256'),
        ('size', pg_size_pretty(shown.size_bytes)),
        ('built', concat(
            to_char(shown.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), ' by ', shown.sealed_owner,
            CASE WHEN shown.sealed_name <> shown.name THEN ' as ' || shown.sealed_name END)),
        ('owner', shown.owner::text),
        ('privileges', model.privileges);
    RETURN QUERY SELECT 'option ' || o.key, o.value FROM jsonb_each_text(shown.options) o ORDER BY o.key;
    RETURN QUERY
        SELECT 'metric ' || n.key,
            CASE jsonb_typeof(n.value) WHEN 'number' THEN trim_scale(round((n.value #>> '{}')::numeric, 6))::text ELSE n.value #>> '{}' END
        FROM jsonb_each(shown.metrics) n WHERE n.key <> 'data_sha256' ORDER BY n.key;
    RETURN QUERY
        SELECT 'epoch ' || e.epoch, concat_ws(', ',
            'loss ' || round(e.loss::numeric, 4),
            'accuracy ' || round(e.accuracy::numeric, 4),
            'validation loss ' || round(e.validation_loss::numeric, 4),
            'validation accuracy ' || round(e.validation_accuracy::numeric, 4),
            'learning rate ' || e.learning_rate::numeric,
            round(e.seconds::numeric, 1) || ' s')
        FROM thanosql.training_log e WHERE e.job = shown.job ORDER BY e.epoch;
END
$$;
COMMENT ON FUNCTION thanosql.describe_model IS 'What DESCRIBE MODEL shows of a version, or of the current one.';


-- What BUILD calls, anew: with what was added above.

CREATE OR REPLACE FUNCTION thanosql.reserve_model(model_name text, overwrite boolean, OUT owner text, OUT version integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_dropped integer;
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
        RAISE EXCEPTION 'model "%" is being built or altered by another session', model_name USING ERRCODE = '55P03';
    END IF;
    SELECT greatest(coalesce(max(v.version), 0), coalesce(last_dropped, 0)) + 1 INTO version
    FROM thanosql.model_version v WHERE v.name = model_name;
END
$$;

CREATE OR REPLACE FUNCTION thanosql.register_model(payload jsonb) RETURNS void
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
    -- Whatever the payload names is taken, so that a column which a later migration adds needs nothing here.  (E'…', since the session
    -- may have standard_conforming_strings off.)
    INSERT INTO thanosql.model_version
    SELECT r.* FROM jsonb_populate_record(NULL::thanosql.model_version, payload || jsonb_build_object(
        'mac', E'\\x' || (payload ->> 'mac'), 'created_at', now(), 'sealed_name', NULL, 'sealed_owner', NULL)) r;
    -- A new version is the current one, whatever was before.
    UPDATE thanosql.model m SET current_version = NULL WHERE m.name = model_name AND m.current_version IS NOT NULL;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'model "%" already exists', model_name
            USING ERRCODE = '42710', DETAIL = 'Another session created it in the meantime.';
    WHEN foreign_key_violation THEN
        RAISE EXCEPTION 'the name "%" is taken by a model of another role', model_name
            USING ERRCODE = '42501', DETAIL = 'Another session created it in the meantime.';
END
$$;


-- What ALTER, DROP, GRANT and REVOKE call, in the user's own transaction and with the user's own rights.

CREATE FUNCTION thanosql.hold_model(statement text, model_name text, if_exists boolean) RETURNS name
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held name;
BEGIN
    -- Also where nothing would be written, as PostgreSQL's own statements.
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot execute % in a read-only transaction', statement USING ERRCODE = '25006';
    END IF;
    SELECT m.owner INTO held FROM thanosql.model m WHERE m.name = model_name;
    IF FOUND AND NOT thanosql.is_member(held) THEN
        RAISE EXCEPTION 'must be owner of model %', quote_ident(model_name) USING ERRCODE = '42501';
    END IF;
    -- Waits for whoever else is changing it, and looks again.
    SELECT m.owner INTO held FROM thanosql.model m WHERE m.name = model_name FOR UPDATE;
    IF NOT FOUND AND if_exists THEN
        RAISE NOTICE 'model "%" does not exist, skipping', model_name;
    ELSIF NOT FOUND THEN
        PERFORM thanosql.refuse_missing(model_name, NULL);
    END IF;
    RETURN held;
END
$$;
COMMENT ON FUNCTION thanosql.hold_model IS 'Locks a model of the current role''s and returns its owner; NULL where it may be missing and is.';

CREATE FUNCTION thanosql.hold_name(model_name text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Shared with others who do the same: they wait for each other at the row.  For a BUILD, which may last hours, nobody waits.  But
    -- one that was committed this moment may still hold its lock: rows are let go a little earlier (ResourceOwnerRelease).
    FOR attempt IN 1..20 LOOP
        IF pg_try_advisory_xact_lock_shared(1952997742, hashtext(model_name)) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.025);
    END LOOP;
    RAISE EXCEPTION 'model "%" is being built by another session', model_name USING ERRCODE = '55P03';
END
$$;
COMMENT ON FUNCTION thanosql.hold_name IS 'Keeps BUILDs of that name away until the transaction ends, or fails where there is one.';

CREATE FUNCTION thanosql.check_role(role_name name) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name) THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = '42704';
    END IF;
END
$$;

CREATE PROCEDURE thanosql.rename_model(model_name text, new_name text, if_exists boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF thanosql.hold_model('ALTER MODEL', model_name, if_exists) IS NULL THEN
        RETURN;
    ELSIF new_name = '' OR octet_length(new_name) > 63 THEN
        RAISE EXCEPTION 'the name of a model has between 1 and 63 bytes' USING ERRCODE = '42602';
    ELSIF new_name = model_name THEN
        RAISE unique_violation;
    END IF;
    PERFORM thanosql.hold_name(model_name);
    PERFORM thanosql.hold_name(new_name);
    UPDATE thanosql.model m SET name = new_name WHERE m.name = model_name;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'model "%" already exists', new_name USING ERRCODE = '42710';
END
$$;

CREATE PROCEDURE thanosql.give_model(model_name text, new_owner text, if_exists boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held name := thanosql.hold_model('ALTER MODEL', model_name, if_exists);
BEGIN
    IF held IS NULL THEN
        RETURN;
    END IF;
    PERFORM thanosql.check_role(new_owner);
    IF held <> new_owner::name THEN
        PERFORM thanosql.hold_name(model_name);
        UPDATE thanosql.model m SET owner = new_owner WHERE m.name = model_name;
    END IF;
END
$$;

CREATE PROCEDURE thanosql.set_version(model_name text, wanted integer, if_exists boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF thanosql.hold_model('ALTER MODEL', model_name, if_exists) IS NULL THEN
        RETURN;
    ELSIF NOT EXISTS (SELECT FROM thanosql.model_version v WHERE v.name = model_name AND v.version = wanted) THEN
        PERFORM thanosql.refuse_missing(model_name, wanted);
    END IF;
    UPDATE thanosql.model m SET current_version = wanted WHERE m.name = model_name;
END
$$;

CREATE OR REPLACE PROCEDURE thanosql.drop_model(model_name text, if_exists boolean DEFAULT false)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF thanosql.hold_model('DROP MODEL', model_name, if_exists) IS NOT NULL THEN
        PERFORM thanosql.hold_name(model_name);
        DELETE FROM thanosql.model m WHERE m.name = model_name;
    END IF;
END
$$;

CREATE PROCEDURE thanosql.drop_version(model_name text, unwanted integer, if_exists boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF thanosql.hold_model('DROP MODEL', model_name, if_exists) IS NULL THEN
        RETURN;
    END IF;
    PERFORM thanosql.hold_name(model_name);
    DELETE FROM thanosql.model_version v WHERE v.name = model_name AND v.version = unwanted;
    IF NOT FOUND AND if_exists THEN
        RAISE NOTICE 'model "%" does not exist, skipping', model_name || '@' || unwanted;
    ELSIF NOT FOUND THEN
        PERFORM thanosql.refuse_missing(model_name, unwanted);
    ELSIF EXISTS (SELECT FROM thanosql.model_version v WHERE v.name = model_name) THEN
        UPDATE thanosql.model m SET retired = greatest(m.retired, unwanted), current_version = nullif(m.current_version, unwanted)
        WHERE m.name = model_name;
    ELSE
        DELETE FROM thanosql.model m WHERE m.name = model_name;
    END IF;
END
$$;

CREATE PROCEDURE thanosql.grant_usage(models text[], roles text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model_name text;
    model_owner name;
    role_name text;
BEGIN
    FOREACH model_name IN ARRAY models LOOP
        model_owner := thanosql.hold_model('GRANT', model_name, false);
        FOREACH role_name IN ARRAY roles LOOP
            IF role_name <> 'public' THEN
                PERFORM thanosql.check_role(role_name);
            END IF;
            INSERT INTO thanosql.model_grant (name, owner, grantee) VALUES (model_name, model_owner, role_name) ON CONFLICT DO NOTHING;
        END LOOP;
    END LOOP;
END
$$;

CREATE PROCEDURE thanosql.revoke_usage(models text[], roles text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model_name text;
    role_name text;
BEGIN
    FOREACH model_name IN ARRAY models LOOP
        PERFORM thanosql.hold_model('REVOKE', model_name, false);
        FOREACH role_name IN ARRAY roles LOOP
            DELETE FROM thanosql.model_grant g WHERE g.name = model_name AND g.grantee = role_name;
            -- A role that is gone may have left a grant behind, to be taken back; else its name is a mistake.
            IF NOT FOUND AND role_name <> 'public' THEN
                PERFORM thanosql.check_role(role_name);
            END IF;
        END LOOP;
    END LOOP;
END
$$;


GRANT SELECT ON thanosql.model_versions TO PUBLIC;
GRANT UPDATE (name, owner, current_version, retired) ON thanosql.model TO PUBLIC;
GRANT INSERT (name, owner, grantee), DELETE ON thanosql.model_grant TO PUBLIC;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA thanosql TO PUBLIC;
