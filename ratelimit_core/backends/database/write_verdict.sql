-- Write what a policy decided, if that changes anything. Each generated policy ends with this if the call is allowed.
--
-- `_stored` is what lock_record returned, `_verdict` what the policy returned, `_own_end` when the owner's lease ends.
-- Returns false if there was no row: it has been made, and the call has to be decided again. The row of a new record
-- is kept until 0 at first.
create or replace function {name}(
  _id text, _prefix text, _policy text, _name text, _qualifier text, _version int, _ms bigint,
  _owner text, _own_end bigint, _stored bigint[], _verdict bigint[]
) returns boolean language plpgsql as $$
declare
  _now bigint; _kept_until bigint; _expires bigint := _verdict[5];
  _drop bigint := 0; _add bigint := 0; _ends bigint; _ended text;
  _last int := cardinality(_stored) + 3; -- where in the verdict the record ends
  _changes boolean := _expires > 0 and _verdict[6:_last] <> _stored[3:];
begin
  if cardinality(_verdict) > _last then
    _drop := _verdict[_last + 1]; _add := _verdict[_last + 2]; _ends := _verdict[_last + 3];
  end if;
  if not (_changes or _drop <> 0 or _add <> 0) then
    return true;
  end if;
  _now := _stored[1]; _kept_until := _stored[2];
  if _kept_until < 0 then
    insert into ratelimit_core_record (id, prefix, policy, name, qualifier, version, expires, data, kept_until)
      values (_id, _prefix, _policy, _name, _qualifier, 0, 0, '', 0) on conflict do nothing;
    return false;
  end if;
  if clock_timestamp() > statement_timestamp() + _ms * interval '1 ms' then
    raise query_canceled using message = 'the time for this call is over';
  end if;
  if _changes then
    if _expires > _kept_until then
      _kept_until := 2 * _expires - _now; -- later than needed, so that the index is not changed each time
    elsif _kept_until > 2 * _expires - _now + 315360000000000 then -- it was to last for ever
      _kept_until := greatest(
        2 * _expires - _now, (select max(l.ends) from ratelimit_core_lease l where l.record = _id)
      );
    end if;
  end if;
  if _drop <> 0 or _add <> 0 then
    delete from ratelimit_core_lease l where l.record = _id and l.ends <= _now;
    if _drop > 0 then
      delete from ratelimit_core_lease l where l.record = _id and l.owner = _owner and l.part <= _drop;
    end if;
    if _own_end > 0 and _drop < _add then
      update ratelimit_core_lease l set owner = ''
        where l.record = _id and l.owner = _owner and l.part <= _add;
    end if;
    insert into ratelimit_core_lease (record, owner, part, ends)
      select _id, case when _add > 0 then _owner else '' end, s.part, _ends
      from generate_series(1, abs(_add)) as s(part);
    if _add <> 0 and _ends > _kept_until then
      _kept_until := 2 * _ends - _now;
    end if;
  end if;
  if _changes then
    update ratelimit_core_record r
      set version = _version, expires = _expires, data = array_to_string(_verdict[6:_last], ' '),
        kept_until = _kept_until
      where r.id = _id;
  elsif _kept_until <> _stored[2] then
    update ratelimit_core_record r set kept_until = _kept_until where r.id = _id;
  end if;
  if _stored[2] = 0 then -- a new record sweeps out two that have ended
    for _ended in select r.id from ratelimit_core_record r where r.kept_until <= _now
      order by r.kept_until limit 2 for update skip locked
    loop
      delete from ratelimit_core_lease l where l.record = _ended;
      delete from ratelimit_core_record r where r.id = _ended;
    end loop;
  end if;
  return true;
end $$;
