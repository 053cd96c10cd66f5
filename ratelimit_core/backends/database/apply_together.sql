-- Decide several calls. If one is denied, write nothing. Return each verdict as a text.
--
-- The caller sorts the calls by their records' ids. Each text in _asks calls the function of a policy (see
-- apply_call.sql). In the text, $1 to $6 are the first six parameters of that function, $7 is _owner, and $8 has the
-- event and the configuration.
create or replace function {name}(
  _asks text[], _ids text[], _prefix text, _names text[], _qualifiers text[], _owners text[], _numbers text[],
  _clock bigint, _ms bigint
) returns text[] language plpgsql as $$
declare
  _now bigint; _setting text; _verdict bigint[]; _verdicts text[] := '{}'; _all boolean := true;
begin
  _setting := set_config('lock_timeout', (_ms * 9 / 10)::text, true);
  _setting := set_config('synchronous_commit', 'off', true);
  perform 1 from ratelimit_core_record r where r.id = any(_ids) order by r.id for update;
  _now := coalesce(_clock, (extract(epoch from clock_timestamp()) * 1000000)::bigint);
  begin
    for _i in 1 .. cardinality(_asks) loop
      execute _asks[_i] into _verdict using
        _ids[_i], _prefix, _names[_i], _qualifiers[_i], _now, _ms, _owners[_i], _numbers[_i]::bigint[];
      _verdicts := _verdicts || array_to_string(_verdict, ' ');
      _all := _all and _verdict[1] = 1;
    end loop;
    if not _all then
      raise exception using errcode = 'RT001';
    end if;
  exception when sqlstate 'RT001' then
    null; -- the block's writes are rolled back, and the variables keep the verdicts
  end;
  return _verdicts;
end $$;
