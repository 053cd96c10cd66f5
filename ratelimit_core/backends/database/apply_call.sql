-- Decide one call: lock its record, decide, and write what the policy changed. Return the verdict.
--
-- This is a template for the function of one policy. The policy's generated block replaces the placeholder "decide".
-- The block reads "now", _fields and the leases. It sets _verdict, and sets "own_end" to the end of the owner's lease.
--
-- _clock is the time in µs. If it is null, the server's clock is read after the record is locked.
-- After _ms milliseconds, the call writes nothing and raises an error. The wait for a lock may take nine tenths of _ms.
create or replace function {name}(
  _id text, _prefix text, _name text, _qualifier text, _clock bigint, _ms bigint, _owner text,
  {parameters}
) returns bigint[] language plpgsql as $$
declare
  _version int; _expires bigint; _data text; _kept_until bigint; _fields bigint[]; _verdict bigint[]; _new bigint[];
  _found boolean; _is_new boolean := false; _changes boolean := false; _setting text; _ended text;
  "now" bigint; "own_end" bigint := 0;
begin
  _setting := set_config('lock_timeout', (_ms * 9 / 10)::text, true);
  _setting := set_config('synchronous_commit', 'off', true);
  loop
    select r.version, r.expires, r.data, r.kept_until into _version, _expires, _data, _kept_until
      from ratelimit_core_record r where r.id = _id for update;
    _found := found;
    "now" := coalesce(_clock, (extract(epoch from clock_timestamp()) * 1000000)::bigint);
    if {width} > 0 then
      if _version = {version} and _expires > "now" and _data ~ '^-?[0-9]{1,16}( -?[0-9]{1,16})*$'
        and length(_data) - length(replace(_data, ' ', '')) = {width} - 1
      then
        _fields := string_to_array(_data, ' ')::bigint[];
      else
        _fields := '{blank}'::bigint[];
      end if;
    end if;
    {decide}
    if {width} > 0 then
      _changes := _verdict[5] > 0 and _verdict[6:{last}] <> _fields;
    end if;
    if _verdict[1] = 0 or not (_changes or {drop} <> 0 or {add} <> 0) then
      return _verdict;
    end if;
    exit when _found;
    insert into ratelimit_core_record (id, prefix, policy, name, qualifier, version, expires, data, kept_until)
      values (_id, _prefix, '{policy}', _name, _qualifier, 0, 0, '', 0) on conflict do nothing;
    _is_new := true;
  end loop;
  if clock_timestamp() > statement_timestamp() + _ms * interval '1 ms' then
    raise query_canceled using message = format('the call took longer than %s ms', _ms);
  end if;
  if _changes then
    _version := {version}; _expires := _verdict[5]; _data := array_to_string(_verdict[6:{last}], ' ');
    if _expires > _kept_until then
      _kept_until := 2 * _expires - "now"; -- later than needed, so that not every call changes the index
    elsif _kept_until > 2 * _expires - "now" + 315360000000000 then -- the old record had no end
      _kept_until := greatest(
        2 * _expires - "now", (select max(l.ends) from ratelimit_core_lease l where l.record = _id)
      );
    end if;
  end if;
  if {drop} <> 0 or {add} <> 0 then
    delete from ratelimit_core_lease l where l.record = _id and l.ends <= "now";
    if {drop} > 0 then
      delete from ratelimit_core_lease l where l.record = _id and l.owner = _owner and l.part <= {drop};
    end if;
    if "own_end" > 0 and {drop} < {add} then
      update ratelimit_core_lease l set owner = ''
        where l.record = _id and l.owner = _owner and l.part <= {add};
    end if;
    insert into ratelimit_core_lease (record, owner, part, ends)
      select _id, case when {add} > 0 then _owner else '' end, s.part, {ends}
      from generate_series(1, abs({add})) as s(part);
    if {add} <> 0 and {ends} > _kept_until then
      _changes := true; _kept_until := 2 * {ends} - "now";
    end if;
  end if;
  if _changes then
    update ratelimit_core_record r
      set version = _version, expires = _expires, data = _data, kept_until = _kept_until where r.id = _id;
  end if;
  if _is_new then -- each new record deletes up to two ended ones, so that the table stays small
    for _ended in select r.id from ratelimit_core_record r where r.kept_until <= "now"
      order by r.kept_until limit 2 for update skip locked
    loop
      delete from ratelimit_core_lease l where l.record = _ended;
      delete from ratelimit_core_record r where r.id = _ended;
    end loop;
  end if;
  return _verdict;
end $$;
