-- The four roles of the warehouse, without passwords. Run once per server by a superuser; running it again changes nothing.
-- dwcp_owner owns every object and runs migrations; dwcp_loader fills windows and quarantine; dwcp_reader is the data
-- team's and the trainer's; dwcp_registry writes models and the channel. What each may do stands in the migrations.
DO $$
DECLARE
    wanted TEXT;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['dwcp_owner', 'dwcp_loader', 'dwcp_reader', 'dwcp_registry'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', wanted);
        END IF;
    END LOOP;
END
$$;
ALTER ROLE dwcp_reader SET default_transaction_read_only = on;
