/**
 * One mod as tools leave it: the text between maskMod( and ), made by the versions named from what `written` in language.test.ts says.
 * Free names are those that the tools leave in the module: imports, __name, coverage counters.
 */
export const altered: Readonly<Record<string, string>> = {
  "esbuild 0.28.2, --keep-names": String.raw`({ size, ids }) => (b, h, q, kv) => {
  const near = /* @__PURE__ */ __name((a, c) => Math.abs(a - c) <= size, "near");
  function tile(i) {
    return floorDiv(i, 4);
  }
  __name(tile, "tile");
  if (q < 3) return true;
  let w = 4;
  if (h > 1) {
    w = 8;
  } else if (h === 1) {
    w += 2;
    w *= 2;
  }
  const d = q - kv;
  if (d < 0) return ids[q] === ids[kv] && d > -3;
  for (let i = 0; i < 3; i++) {
    if (kv === i * 5) return true;
  }
  return near(tile(q), tile(kv)) || d < w && floorMod(d, 3) !== 1;
}`,
  "esbuild, --minify-syntax --minify-identifiers --format=cjs": String.raw`({ size: m, ids: i }) => (c, f, e, n) => {
  const a = (r, l) => Math.abs(r - l) <= m;
  function b(r) {
    return (0, o.floorDiv)(r, 4);
  }
  if (e < 3) return !0;
  let t = 4;
  f > 1 ? t = 8 : f === 1 && (t += 2, t *= 2);
  const u = e - n;
  if (u < 0) return i[e] === i[n] && u > -3;
  for (let r = 0; r < 3; r++)
    if (n === r * 5) return !0;
  return a(b(e), b(n)) || u < t && (0, o.floorMod)(u, 3) !== 1;
}`,
  "terser 5.51.2 after TypeScript 5.9.3, target ES5": String.raw`function(t){var r=t.size,e=t.ids;return function(t,n,i,o){function a(t){return(0,attention_1.floorDiv)(t,4)}if(i<3)return!0;var u=4;n>1?u=8:1===n&&(u+=2,u*=2);var f,s,v=i-o;if(v<0)return e[i]===e[o]&&v>-3;for(var l=0;l<3;l++)if(o===5*l)return!0;return f=a(i),s=a(o),Math.abs(f-s)<=r||v<u&&1!==(0,attention_1.floorMod)(v,3)}}`,
  "TypeScript, target ES5": String.raw`function (_a) {
    var size = _a.size, ids = _a.ids;
    return function (b, h, q, kv) {
        var near = function (a, c) { return Math.abs(a - c) <= size; };
        function tile(i) { return (0, attention_1.floorDiv)(i, 4); }
        if (q < 3)
            return true;
        var w = 4;
        if (h > 1) {
            w = 8;
        }
        else if (h === 1) {
            w += 2;
            w *= 2;
        }
        var d = q - kv;
        if (d < 0)
            return ids[q] === ids[kv] && d > -3;
        for (var i = 0; i < 3; i++) {
            if (kv === i * 5)
                return true;
        }
        return near(tile(q), tile(kv)) || (d < w && (0, attention_1.floorMod)(d, 3) !== 1);
    };
}`,
  "Babel 8.1.2, preset-env": String.raw`function (_ref) {
  var size = _ref.size,
    ids = _ref.ids;
  return function (b, h, q, kv) {
    var near = function near(a, c) {
      return Math.abs(a - c) <= size;
    };
    function tile(i) {
      return (0, _attention.floorDiv)(i, 4);
    }
    if (q < 3) return true;
    var w = 4;
    if (h > 1) {
      w = 8;
    } else if (h === 1) {
      w += 2;
      w *= 2;
    }
    var d = q - kv;
    if (d < 0) return ids[q] === ids[kv] && d > -3;
    for (var i = 0; i < 3; i++) {
      if (kv === i * 5) return true;
    }
    return near(tile(q), tile(kv)) || d < w && (0, _attention.floorMod)(d, 3) !== 1;
  };
}`,
  "istanbul 6.0.3": String.raw`({
  size,
  ids
}) => {
  cov_d3doo89m7().f[0]++;
  cov_d3doo89m7().s[1]++;
  return (b, h, q, kv) => {
    cov_d3doo89m7().f[1]++;
    cov_d3doo89m7().s[2]++;
    const near = (a, c) => {
      cov_d3doo89m7().f[2]++;
      cov_d3doo89m7().s[3]++;
      return Math.abs(a - c) <= size;
    };
    function tile(i) {
      cov_d3doo89m7().f[3]++;
      cov_d3doo89m7().s[4]++;
      return floorDiv(i, 4);
    }
    cov_d3doo89m7().s[5]++;
    if (q < 3) {
      cov_d3doo89m7().b[0][0]++;
      cov_d3doo89m7().s[6]++;
      return true;
    } else {
      cov_d3doo89m7().b[0][1]++;
    }
    let w = (cov_d3doo89m7().s[7]++, 4);
    cov_d3doo89m7().s[8]++;
    if (h > 1) {
      cov_d3doo89m7().b[1][0]++;
      cov_d3doo89m7().s[9]++;
      w = 8;
    } else {
      cov_d3doo89m7().b[1][1]++;
      cov_d3doo89m7().s[10]++;
      if (h === 1) {
        cov_d3doo89m7().b[2][0]++;
        cov_d3doo89m7().s[11]++;
        w += 2;
        cov_d3doo89m7().s[12]++;
        w *= 2;
      } else {
        cov_d3doo89m7().b[2][1]++;
      }
    }
    const d = (cov_d3doo89m7().s[13]++, q - kv);
    cov_d3doo89m7().s[14]++;
    if (d < 0) {
      cov_d3doo89m7().b[3][0]++;
      cov_d3doo89m7().s[15]++;
      return (cov_d3doo89m7().b[4][0]++, ids[q] === ids[kv]) && (cov_d3doo89m7().b[4][1]++, d > -3);
    } else {
      cov_d3doo89m7().b[3][1]++;
    }
    cov_d3doo89m7().s[16]++;
    for (let i = (cov_d3doo89m7().s[17]++, 0); i < 3; i++) {
      cov_d3doo89m7().s[18]++;
      if (kv === i * 5) {
        cov_d3doo89m7().b[5][0]++;
        cov_d3doo89m7().s[19]++;
        return true;
      } else {
        cov_d3doo89m7().b[5][1]++;
      }
    }
    cov_d3doo89m7().s[20]++;
    return (cov_d3doo89m7().b[6][0]++, near(tile(q), tile(kv))) || (cov_d3doo89m7().b[6][1]++, d < w) && (cov_d3doo89m7().b[6][2]++, floorMod(d, 3) !== 1);
  };
}`,
};
