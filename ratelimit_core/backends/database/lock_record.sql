-- Lock a record and read it. Each generated policy begins with this.
--
-- Returns the time in µs, how long the row is kept (-1: there is no row), and the fields of the record. These are all 0
-- if there is no record of this version, or if it has ended. The clock is read after the lock is held; `_clock` replaces
-- it, unless it is NULL. The transaction may wait for a lock for nine tenths of `_ms`.
create or replace function {name}(
  _id text, _version int, _width int, _clock bigint, _ms bigint
) returns bigint[] language plpgsql as $$
declare
  _setting text; _now bigint; _row_version int; _expires bigint; _data text; _kept_until bigint; _fields bigint[];
begin
  _setting := set_config('lock_timeout', (_ms * 9 / 10)::text, true);
  _setting := set_config('synchronous_commit', 'off', true);
  select r.version, r.expires, r.data, r.kept_until into _row_version, _expires, _data, _kept_until
    from ratelimit_core_record r where r.id = _id for update;
  _now := coalesce(_clock, (extract(epoch from clock_timestamp()) * 1000000)::bigint);
  if _row_version = _version and _expires > _now and _data ~ '^-?[0-9]{1,16}( -?[0-9]{1,16})*$' then
    _fields := string_to_array(_data, ' ')::bigint[];
    if cardinality(_fields) = _width then
      return array[_now, _kept_until] || _fields;
    end if;
  end if;
  return array[_now, coalesce(_kept_until, -1)] || array_fill(0::bigint, array[_width]);
end $$;
