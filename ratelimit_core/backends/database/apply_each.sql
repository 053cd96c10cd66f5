-- Decide several batches of calls, one after the other, until _most of them are allowed (null: no maximum). If a call
-- of a batch is denied, write nothing for that batch. Return the verdicts of the decided batches, each as a text.
--
-- All records are locked first, in the order of their ids, so that two statements never wait for each other. If some do
-- not exist, one INSERT creates those and locks the others: after a SELECT, records that other sessions create meanwhile
-- would be locked out of order. At the end, created records that are not used are deleted.
--
-- _ends has for each batch the position of its last call. The caller sorts the calls of each batch by their records'
-- ids. For the other parameters see apply_together.sql. _policies has the names of the policies.
create or replace function {name}(
  _asks text[], _ids text[], _prefix text, _policies text[], _names text[], _qualifiers text[], _owners text[],
  _numbers text[], _ends int[], _most int, _clock bigint, _ms bigint
) returns text[] language plpgsql as $$
declare
  _now bigint; _setting text; _verdict bigint[]; _verdicts text[] := '{}'; _all boolean; _first int := 1;
  _allowed int := 0; _new int; _unused int; _ended text;
begin
  _setting := set_config('lock_timeout', (_ms * 9 / 10)::text, true);
  _setting := set_config('synchronous_commit', 'off', true);
  select count(distinct i.id) into _new from unnest(_ids) as i(id)
    where not exists (select from ratelimit_core_record r where r.id = i.id);
  if _new > 0 then
    insert into ratelimit_core_record (id, prefix, policy, name, qualifier, version, expires, data, kept_until)
      select distinct on (i.id) i.id, _prefix, i.policy, i.name, i.qualifier, 0, 0, '', 0
      from unnest(_ids, _policies, _names, _qualifiers) as i(id, policy, name, qualifier) order by i.id
      on conflict (id) do update set id = excluded.id;
  else
    perform 1 from ratelimit_core_record r where r.id = any(_ids) order by r.id for update;
  end if;
  _now := coalesce(_clock, (extract(epoch from clock_timestamp()) * 1000000)::bigint);
  for _batch in 1 .. cardinality(_ends) loop
    exit when _allowed = _most;
    _all := true;
    begin
      for _i in _first .. _ends[_batch] loop
        execute _asks[_i] into _verdict using
          _ids[_i], _prefix, _names[_i], _qualifiers[_i], _now, _ms, _owners[_i], _numbers[_i]::bigint[];
        _verdicts := _verdicts || array_to_string(_verdict, ' ');
        _all := _all and _verdict[1] = 1;
      end loop;
      if not _all then
        raise exception using errcode = 'RT001';
      end if;
      _allowed := _allowed + 1;
    exception when sqlstate 'RT001' then
      null; -- the batch's writes are rolled back, and the variables keep the verdicts
    end;
    _first := _ends[_batch] + 1;
  end loop;
  if _new > 0 then
    delete from ratelimit_core_record r where r.id = any(_ids) and r.kept_until = 0;
    get diagnostics _unused = row_count;
    -- each new record deletes up to two ended ones, so that the table stays small
    for _ended in select r.id from ratelimit_core_record r where r.kept_until <= _now
      order by r.kept_until limit 2 * greatest(0, _new - _unused) for update skip locked
    loop
      delete from ratelimit_core_lease l where l.record = _ended;
      delete from ratelimit_core_record r where r.id = _ended;
    end loop;
  end if;
  return _verdicts;
end $$;
